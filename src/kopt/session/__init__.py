"""Sessions: loading artifacts and running them."""

from kopt.session.session import Session, load

__all__ = ["Session", "load"]
