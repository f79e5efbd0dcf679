from __future__ import annotations

import inspect

import rpz_auth


def test_every_public_name_of_the_package_is_exported_and_exists() -> None:
    public = {
        name
        for name, value in vars(rpz_auth).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert sorted(rpz_auth.__all__) == sorted({*public, "aio"})
