"""A scripted expert that acts through the ordinary 7-D OSC_POSE interface."""
