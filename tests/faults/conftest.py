"""What the fault suite found, as the table of docs/reliability.md: `make faults` prints it."""

from collections import Counter

import pytest

# The outcomes of a fault, from good to bad; the last three are failures of their test as well.
OUTCOMES = ("as without it", "a sentence", "a warning", "traceback", "hang", "silent error")


@pytest.fixture
def note(record_property):
    """note(fault, outcome): one case; it survives into the table also from another process."""

    def noted(fault: str, outcome: str) -> None:
        assert outcome in OUTCOMES
        record_property("fault", [fault, outcome])

    return noted


def table(notes) -> str:
    """The cases of (fault, outcome) pairs, counted, in Markdown."""
    counts = Counter(map(tuple, notes))
    faults = dict.fromkeys(fault for fault, _ in notes)
    rows = [["fault", "cases", *OUTCOMES]]
    for fault in faults:
        found = [counts[fault, outcome] for outcome in OUTCOMES]
        rows.append([fault, *map(str, (sum(found), *found))])
    total = [sum(counts[fault, outcome] for fault in faults) for outcome in OUTCOMES]
    rows.append(["all", *map(str, (sum(total), *total))])
    rows.insert(1, ["---", *["---:"] * (len(OUTCOMES) + 1)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def pytest_terminal_summary(terminalreporter):
    reports = [r for kind in ("passed", "failed") for r in terminalreporter.stats.get(kind, [])]
    notes = [
        value
        for report in sorted(reports, key=lambda r: r.nodeid)
        if report.when == "call"
        for key, value in report.user_properties
        if key == "fault"
    ]
    if notes:
        terminalreporter.section("faults")
        terminalreporter.write_line(table(notes))
