import pytest

from kopt.check.budget import LIMITS, read_budgets
from kopt.errors import FileError, UsageError

GOOD = """
[[budget]]
model = "resnet*"
batch = 8
machine = "AMD EPYC*"
p50 = "20 ms"
p99 = "35ms"
throughput = "300/s"
peak_memory = "1.5 GiB"
load_time = "1 s"
artifact_size = "250 MB"
accuracy_drop = 1e-4
max_regression = "5 %"

[[budget]]
p90 = "800 us"
"""


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "budgets.toml"
        path.write_text(text)
        return path

    return write


def test_units_and_selectors(write):
    first, second = read_budgets(write(GOOD))
    assert first.limits == {
        "p50": pytest.approx(0.02),
        "p99": pytest.approx(0.035),
        "throughput": 300,
        "peak_memory": 1.5 * 2**30,
        "load_time": 1,
        "artifact_size": 250e6,
        "accuracy_drop": 1e-4,
        "max_regression": 0.05,
    }
    assert (first.line, second.line) == (2, 15)
    assert first.selects("resnet50", 8)
    assert not first.selects("resnet50", 1)
    assert not first.selects("bert", 8)
    assert second.selects("anything", 3)
    assert first.fits_machine("AMD EPYC 9R14")
    assert not first.fits_machine("Intel")
    assert second.fits_machine("Intel")


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("[[budget]]\np50 = 12\n", 2, "p50 = 12 is not a number with one of ns, us"),
        ('[[budget]]\np50 = "12 parsecs"\n', 2, "12 parsecs"),
        ('[[budget]]\nmodel = "m"\n\nlatency = "1 ms"\n', 4, "unknown key 'latency'"),
        ('[[budget]]\np50 = "1 ms"\n[[budget]]\nbatch = 0\np50 = "1 ms"\n', 4, "batch = 0 is not a number of rows"),
        ('[[budget]]\nmodel = "m"\n', 1, "a budget without a limit"),
        ('[budgets]\np50 = "1 ms"\n', 1, "unknown key 'budgets'"),
        ("", 1, "there is no"),
        ('[[budget]]\nmax_regression = "5"\n', 2, "a share"),
        ("[[budget]]\nmax_regression = -1\n", 2, "a share"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(write, text, line, what):
    path = write(text)
    with pytest.raises(UsageError) as raised:
        read_budgets(path)
    assert what in raised.value.what
    assert raised.value.where == f"{path}:{line}"
    assert raised.value.next_step


def test_unknown_keys_list_the_allowed_ones(write):
    with pytest.raises(UsageError) as raised:
        read_budgets(write('[[budget]]\nlatency = "1 ms"\n'))
    assert all(key in raised.value.next_step for key in LIMITS)


def test_files_that_are_no_toml_or_missing(write, tmp_path):
    with pytest.raises(UsageError, match="line 2"):
        read_budgets(write("[[budget]]\np50 = = 1\n"))
    with pytest.raises(FileError, match="No such file"):
        read_budgets(tmp_path / "none.toml")
