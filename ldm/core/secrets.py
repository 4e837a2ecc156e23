"""What must not be published: tokens, keys and passwords in a text."""

import os
import re

_SECRETS = {
    "a Hugging Face token": r"\b(hf|api_org)_[A-Za-z0-9]{30,}",
    "a GitHub token": r"\b(gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{30,})",
    "an API key": r"\b(sk|pk|rk)-[A-Za-z0-9_-]{24,}|\bAIza[A-Za-z0-9_-]{30,}",
    "an AWS key": r"\b(AKIA|ASIA)[A-Z0-9]{16}\b",
    "a Slack token": r"\bxox[a-z]-[A-Za-z0-9-]{10,}",
    "a signed token": r"\beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY",
    "a password in an address": r"\b[a-z][a-z0-9+.-]*://[^\s/@:]*:[^\s/@]+@",
    "a signature in an address": r"(?i)[?&][a-z0-9_-]*(token|sig(nature)?|secret|key)=[^\s&]{8,}",
}
_OF_A_SECRET = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_KEY)", re.I)
_SHORTEST = 12  # characters of an environment's value that is looked for as it stands


def secret_in(text: str) -> str | None:
    """What kind of secret a text holds, without the secret itself; None where none is found.

    By the looks of public services' tokens, and by the values of the environment's own secrets.
    """
    for kind, pattern in _SECRETS.items():
        if re.search(pattern, text):
            return kind
    for name, value in os.environ.items():
        if _OF_A_SECRET.search(name) and len(value) >= _SHORTEST and value in text:
            return f"the value of {name}"
    return None
