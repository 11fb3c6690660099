_base_ = "./lite.py"

# The weights of the sampled values come from keys sampled at the same locations.
encoder = dict(attention="key_aware", key_aware=dict(same_locations_on_every_level=False))
