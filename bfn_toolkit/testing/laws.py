"""All laws, as plain functions ``check_<law>(subject)``.

>>> from bfn_gaussian import Gaussian
>>> check_bayes_rule(Gaussian()) <= 1.0
True
"""

from bfn_toolkit.testing import (  # noqa: F401 - they register their laws
    claim_laws,
    codec_laws,
    dataset_laws,
    family_laws,
    feature_laws,
    geometry_laws,
    input_laws,
    loss_laws,
    network_laws,
    pairing_laws,
    price_laws,
    row_laws,
    sampler_laws,
    schedule_laws,
    site_laws,
    time_laws,
)
from bfn_toolkit.testing.law import LAWS, Law, LawBroken

_CHECKS = {law.check.__name__: law.check for law in LAWS.values()}
globals().update(_CHECKS)
__all__ = ["LAWS", "Law", "LawBroken", *sorted(_CHECKS)]
