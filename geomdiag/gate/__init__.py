"""The gate: numbers of a result held against a baseline, for continuous integration.

`measured` takes numbers out of results, `baseline` keeps them as a small TOML file, `verdict`
tells noise from regression, `reports` writes what was found, `plugin` is the one for pytest.
Nothing is imported here: pytest loads the plugin in every run, needed or not.
"""
