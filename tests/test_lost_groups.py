"""Only what a dead actor of this very driver made is given back."""

import pytest
from ray.core.generated.gcs_pb2 import PlacementGroupTableData

from platform.study.lost_groups import is_lost

JOB, ACTOR, NOBODY = bytes.fromhex("0e000000"), bytes.fromhex("d92f11f44e22907cac9bb3e60e000000"), b"\xff" * 16
OF_A_DEAD_ACTOR = {
    "creator_job_id": JOB, "creator_actor_id": ACTOR, "creator_actor_dead": True,
    "state": PlacementGroupTableData.CREATED,
}  # fmt: skip


@pytest.mark.parametrize(
    ("differs", "expected"),
    [
        ({}, True),
        ({"state": PlacementGroupTableData.PENDING}, True),
        ({"state": PlacementGroupTableData.REMOVED}, False),
        ({"creator_actor_dead": False}, False),
        ({"creator_actor_id": NOBODY}, False),
        ({"creator_job_id": bytes.fromhex("09000000")}, False),
    ],
    ids=["created", "pending", "removed", "alive", "the driver's", "another driver's"],
)
def test_a_group_is_lost_where_its_maker_is_dead(differs, expected):
    assert is_lost(PlacementGroupTableData(**{**OF_A_DEAD_ACTOR, **differs}), JOB.hex()) is expected
