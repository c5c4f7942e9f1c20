"""Give back what a group of workers held whose job was killed: Ray Train does so itself only where it was told in time.

Takes this process's Ray; gives the CPUs and GPUs of placement groups whose makers have died.  Kept, they would be free
for nobody for as long as the cluster lives.
"""

import ray
from ray._private.state import state
from ray._raylet import PlacementGroupID
from ray.core.generated.gcs_pb2 import PlacementGroupTableData  # type: ignore[attr-defined] # made as it is imported
from ray.util import remove_placement_group
from ray.util.placement_group import PlacementGroup


def remove_lost_groups() -> int:
    """Remove the placement groups that dead actors of this driver made, and return how many there were."""
    job = ray.get_runtime_context().get_job_id()
    table = state._connect_and_get_accessor().get_placement_group_table()
    lost = [group for group in map(PlacementGroupTableData.FromString, table) if is_lost(group, job)]
    for group in lost:
        remove_placement_group(PlacementGroup(PlacementGroupID(group.placement_group_id)))
    return len(lost)


def is_lost(group: PlacementGroupTableData, job: str) -> bool:
    """Tell whether an actor of this driver made a group and died; what the driver itself made has no actor."""
    is_an_actor_s = group.creator_actor_id.strip(b"\xff") != b""
    is_removed = group.state == PlacementGroupTableData.REMOVED
    return is_an_actor_s and group.creator_actor_dead and group.creator_job_id.hex() == job and not is_removed
