"""The gateway's view of what the scheduler says exists."""

from shunter_gateway.topology import topology_from_proto
from shunter_proto.v1 import scheduler_pb2 as pb


def test_a_pool_may_forbid_retries() -> None:
    pool = pb.Topology.Pool(name="chat", model_names=["chat"], engine_type="simulated")
    topology = topology_from_proto(pb.Topology(version=1, pools=[pool]))
    assert topology.pools["chat"].max_retries == 0
