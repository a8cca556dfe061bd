"""The outcome as JUnit XML: one test suite per model, one test case per limit; inconclusive ones are skipped."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree

from kopt.check.describe import sentence
from kopt.check.judge import Result
from kopt.check.verdict import Verdict

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def to_junit(results: Sequence[Result]) -> str:
    """The document; characters that XML cannot hold become "?"."""
    root = ElementTree.Element("testsuites", name="kopt check")
    for model in dict.fromkeys(result.model for result in results):
        own = [result for result in results if result.model == model]
        counts = {
            "tests": len(own),
            "failures": sum(result.verdict is Verdict.FAIL for result in own),
            "skipped": sum(result.verdict is Verdict.INCONCLUSIVE for result in own),
            "errors": 0,
        }
        suite = ElementTree.SubElement(root, "testsuite", {"name": _clean(model), **{key: str(value) for key, value in counts.items()}})
        for result in own:
            _case(suite, result)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _case(suite: ElementTree.Element, result: Result) -> None:
    name = f"{result.key} batch {result.batch}" if result.batch else result.key
    case = ElementTree.SubElement(suite, "testcase", classname=_clean(result.model), name=name)
    text = _clean(sentence(result))
    if result.verdict is Verdict.FAIL:
        ElementTree.SubElement(case, "failure", message=text).text = text
    elif result.verdict is Verdict.INCONCLUSIVE:
        ElementTree.SubElement(case, "skipped", message=f"inconclusive: {text}")
    else:
        ElementTree.SubElement(case, "system-out").text = text


def _clean(text: str) -> str:
    return _NOT_XML.sub("?", text)
