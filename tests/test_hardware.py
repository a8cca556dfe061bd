import re

import pytest

from kopt.errors import TargetError
from kopt.hardware import ISA_LEVELS, Target, available_cores, cpu_features


def test_the_cpu_target_describes_this_machine():
    target = Target.parse("cpu")
    assert target.device == "cpu"
    assert target.num_cores == available_cores() >= 1
    assert target.memory_bytes > 0
    assert target.required_features == cpu_features()
    assert re.fullmatch(r"[0-9a-f]{16}", target.fingerprint)
    assert target.fingerprint == Target.parse("cpu").fingerprint


def test_an_isa_level_limits_what_code_may_need():
    if not ISA_LEVELS["x86-64-v3"] <= cpu_features():
        pytest.skip("this CPU is below x86-64-v3")
    target = Target.parse("cpu", isa="x86-64-v3")
    assert target.required_features == ISA_LEVELS["x86-64-v3"]
    assert target.fingerprint != Target.parse("cpu").fingerprint


def test_cuda_spellings():
    assert Target.parse("cuda").arch == ""
    assert str(Target.parse("cuda:sm_90")) == "cuda:sm_90"


@pytest.mark.parametrize("text", ["", "gpu", "cpu:0", "cuda:90", "cuda:sm_", "CPU"])
def test_other_spellings_are_refused_with_the_valid_ones(text):
    with pytest.raises(TargetError, match="choose one of"):
        Target.parse(text)


def test_an_unknown_isa_is_refused():
    with pytest.raises(TargetError, match="x86-64-v3"):
        Target.parse("cpu", isa="v3")
