# No encoder: the control that says what any of the others is worth.
encoder = dict(type="NoEncoder")
