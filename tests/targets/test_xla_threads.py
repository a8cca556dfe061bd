import subprocess
import sys

import pytest

from kopt.errors import UsageError
from kopt.targets.xla_threads import limit_threads

CHILD = """
import os, sys
from kopt.targets.xla_threads import limit_threads
limit_threads({first})
import jax, jax.numpy as jnp
a = jnp.ones((600, 600))
(a @ a).block_until_ready()
try:
    limit_threads({second})
except Exception as error:
    print(type(error).__name__, *str(error).splitlines(), sep=chr(10))
print(os.environ["NPROC"])
"""


def child(first, second):
    done = subprocess.run([sys.executable, "-c", CHILD.format(first=first, second=second)], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_the_first_number_holds_for_the_process():
    assert child(1, 1) == ["1"]
    kind, what, where, next_step, number = child(1, 2)
    assert (kind, number) == ("UsageError", "1")
    assert what == "2 threads were asked for, but JAX already runs with 1, which cannot change any more"
    assert where.startswith("  at process ")
    assert next_step.startswith("  ask for 1, call kopt before")
    assert child(1, None) == ["1"]


def test_the_number_that_jax_took_by_itself_may_be_asked_for():
    (cores,) = child(None, None)
    assert child(None, cores) == [cores]
    assert child(None, int(cores) + 1)[0] == "UsageError"


def test_by_default_all_cores_of_the_process_are_used():
    (found,) = child(None, None)
    assert int(found) >= 1


@pytest.mark.parametrize("threads", [0, -1])
def test_impossible_numbers_are_refused(threads):
    with pytest.raises(UsageError, match="not possible"):
        limit_threads(threads)
