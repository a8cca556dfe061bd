"""One candidate, tried in a child process that may crash, hang, eat memory or compute nonsense without harm to its parent."""

from kopt.trial.outcome import FAILURE_KINDS, Failure, FailureKind, Measured, Outcome, outcome_from_json, outcome_to_json
from kopt.trial.pool import TrialPool, run_trial
from kopt.trial.request import Candidate, Limits, Timing, TrialRequest

__all__ = [
    "FAILURE_KINDS",
    "Candidate",
    "Failure",
    "FailureKind",
    "Limits",
    "Measured",
    "Outcome",
    "Timing",
    "TrialPool",
    "TrialRequest",
    "outcome_from_json",
    "outcome_to_json",
    "run_trial",
]
