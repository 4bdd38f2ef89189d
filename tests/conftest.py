"""Settings of all tests: hypothesis draws the same examples each time and asserts no duration."""

from hypothesis import settings

settings.register_profile("project", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("project")
