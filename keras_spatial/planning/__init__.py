"""Will it fit? What a step costs each device, found by rehearsing it: traced for one device, and never run."""

from keras_spatial.planning.plan import Plan, plan, readable
from keras_spatial.planning.search import NothingFits, smallest_mesh
from keras_spatial.planning.sharing import shared_distribution

__all__ = ["NothingFits", "Plan", "plan", "readable", "shared_distribution", "smallest_mesh"]
