"""Does a model fit? What a step costs each device is found by rehearsing it: it is traced for one device, and never
run.
"""

from keras_spatial.planning.plan import Plan, plan
from keras_spatial.planning.search import NothingFits, smallest_mesh
from keras_spatial.planning.sharing import Room, Shards, free_space, host_memory, smallest_sharing
from keras_spatial.planning.sizes import parse_size, readable

__all__ = [
    "NothingFits",
    "Plan",
    "Room",
    "Shards",
    "free_space",
    "host_memory",
    "parse_size",
    "plan",
    "readable",
    "smallest_mesh",
    "smallest_sharing",
]
