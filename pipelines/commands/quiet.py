"""Commands speak for themselves: without the libraries' loading bars and notes."""


def quiet_libraries() -> None:
    """Turn off what diffusers and transformers print while they load a model."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
        library.utils.logging.set_verbosity_error()
