"""All tables of networks."""

from ecosystem import applications, keras_hub_networks, medicai_networks

LIBRARIES = {
    "applications": applications.LIBRARY,
    "keras-hub": keras_hub_networks.LIBRARY,
    "medicai": medicai_networks.LIBRARY,
}
