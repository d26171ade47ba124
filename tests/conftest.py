"""For all tests: how hypothesis runs."""

import hypothesis

# How long an example takes is the machine's business.
hypothesis.settings.register_profile("pulltap", deadline=None)
hypothesis.settings.load_profile("pulltap")
