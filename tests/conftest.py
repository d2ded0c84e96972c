"""The kinds of test, one vocabulary: unit, properties, integration, e2e, browser, chaos."""

pytest_plugins = ["tests.backends", "tests.databases"]
