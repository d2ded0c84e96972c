"""How hard the properties are tried: `ci` the same every time, `deep` for a night (`--hypothesis-profile=deep`)."""

from hypothesis import HealthCheck, settings

_slow = [HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile("ci", deadline=None, derandomize=True, suppress_health_check=_slow)
settings.register_profile("deep", deadline=None, max_examples=20_000, suppress_health_check=_slow)
settings.load_profile("ci")
