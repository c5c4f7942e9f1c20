"""Small jobs for half an hour: a driver and its Ray grow by what the ledger keeps of each result, and by no more."""

import os

import pytest
from soak import each_job, soak

MINUTES = float(os.environ.get("SOAK_MINUTES", "30"))
RSS_KIB_PER_JOB = 25.0
"""50 MB over 2000 jobs; 14 were measured."""

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(MINUTES * 60 + 900)]


def test_a_driver_grows_by_its_results_alone(tmp_path):
    samples = soak(tmp_path, MINUTES)
    quarter = len(samples) // 4
    assert quarter > 1
    second, last = samples[quarter : 2 * quarter], samples[-quarter:]
    grown = each_job(second[-1], last[-1])
    assert grown["rss_kib"] <= RSS_KIB_PER_JOB, grown
    assert grown["rows"] <= 1.1 * second[-1].rows / second[-1].records, grown
    for name in ("handles", "threads", "processes", "objects", "references", "files"):
        most, least = max(getattr(each, name) for each in second), min(getattr(each, name) for each in last)
        assert least <= most, f"{name} grew from at most {most} to at least {least}"
