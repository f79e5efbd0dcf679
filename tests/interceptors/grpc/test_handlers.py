from __future__ import annotations

import pytest
from rpz_auth.address import UNKNOWN
from rpz_auth.caller import Admission
from rpz_auth.grpc.handlers import certain


@pytest.mark.parametrize("stray", [None, True, "admission", UNKNOWN, Admission], ids=repr)
def test_a98_nothing_but_an_admission_admits(stray: object) -> None:
    with pytest.raises(TypeError, match="in place of an admission"):
        certain(stray)
    admission = Admission(UNKNOWN, None)
    assert certain(admission) is admission
