"""For all tests: how hypothesis runs."""

import hypothesis

# How long an example takes is the machine's business; which ones there are is no matter of luck. For a hunt by chance,
# there is `python -m tests.fuzz`.
hypothesis.settings.register_profile("pulltap", deadline=None, derandomize=True)
hypothesis.settings.load_profile("pulltap")
