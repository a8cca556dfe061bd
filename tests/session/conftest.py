import pytest

from kopt.targets.base import BACKENDS
from support.fakes import FakeBackend


@pytest.fixture(autouse=True)
def fake(monkeypatch, tmp_path):
    """The backend without a compiler, and a cache of the test's own."""
    monkeypatch.setitem(BACKENDS, "fake", "support.fakes:FakeBackend")
    monkeypatch.setattr(FakeBackend, "calls", [])
    monkeypatch.setattr("platformdirs.user_cache_path", lambda *_, **__: tmp_path / "user-cache")
    return FakeBackend
