"""What cannot be used as an image."""


class BadImage(Exception):
    """An image that cannot be used, by name, with the reason."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)  # both, so that it survives pickling between processes
        self.name, self.reason = name, reason

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"
