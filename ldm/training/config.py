from ldm.config import *  # noqa: F403
