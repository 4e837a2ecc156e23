import pytest

from ldm.core.secrets import secret_in

RANDOM = "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7bC0eF3hJ6"


@pytest.mark.parametrize(
    "secret",
    [
        f"hf_{RANDOM}",
        f"api_org_{RANDOM}",
        f"ghp_{RANDOM}",
        f"github_pat_{RANDOM}",
        f"sk-{RANDOM}",
        f"sk-proj-{RANDOM}",
        "AKIAIOSFODNN7EXAMPLE",
        "xoxb-1234567890-abcdefghij",
        f"eyJ{RANDOM}.{RANDOM}.{RANDOM}",
        "-----BEGIN OPENSSH PRIVATE KEY-----",
        "https://user:hunter2@example.org/set",
        "s3://key:secret@bucket/x",
        "https://example.org/set?X-Amz-Signature=0123456789abcdef",
        "https://example.org/set?a=1&token=0123456789",
    ],
)
def test_a_secret_is_found_and_not_repeated(secret):
    found = secret_in(f"data:\n  source: {secret}\n")
    assert found and secret not in found


def test_a_secret_of_the_environment_is_found_whatever_it_looks_like(monkeypatch):
    assert secret_in("prompts: [what nobody guesses]") is None
    monkeypatch.setenv("HF_TOKEN", "what nobody guesses")
    assert secret_in("prompts: [what nobody guesses]") == "the value of HF_TOKEN"
    monkeypatch.setenv("HF_TOKEN", "short")
    assert secret_in("in short, none") is None


@pytest.mark.parametrize(
    "text",
    [
        "https://huggingface.co/datasets/x?download=true",
        "hf_cache",
        "a risk-free day",
        "trained:features",
        "mailto:a@b.c",
        "${oc.env:HF_TOKEN}",
        "task-" + "a" * 40,
        "a photo of a token= sign",
    ],
)
def test_what_is_no_secret_is_left_alone(text):
    assert secret_in(text) is None
