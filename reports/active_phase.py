"""The active phase of a repetition: until 90 % of its turns have their first token.

For one repetition of one policy::

    active phase    = [0, q],  q = 90 % quantile of first_token_at_ns over its turns (inverted CDF)
    busy(host)      = time of the host's engines in forward passes within [0, q] / (engines x q)

What remains then are a few long answers and the turns behind them: prefill has next to nothing to do, however
it is done, and the job lasts as long as those answers. A resource that bounds prefill idles there, and no
scheduler could spread what is left. Both would hide how it was while there was work.

Instants of different hosts agree within one control message (about a millisecond), against phases of seconds.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

ACTIVE_SHARE = 0.90
"""Share of a repetition's turns that have their first token when its active phase ends."""


def active_end_at_ns(turns: pd.DataFrame) -> int:
    """When the active phase of one repetition ends, by its ``turns``; 0 without any."""
    if turns.empty:
        return 0
    return int(np.quantile(turns["first_token_at_ns"], ACTIVE_SHARE, method="inverted_cdf"))


def time_in_passes_ns(passes: pd.DataFrame, until_at_ns: int) -> dict[str, int]:
    """By host: nanoseconds in forward passes before ``until_at_ns``, summed over engines.

    A row of ``passes`` is an engine's part of a pass of one repetition.
    """
    inside_ns = (passes["end_at_ns"].clip(upper=until_at_ns) - passes["begin_at_ns"]).clip(lower=0)
    by_host = inside_ns.groupby(passes["host"]).sum()
    return {str(host): int(time_ns) for host, time_ns in by_host.items()}
