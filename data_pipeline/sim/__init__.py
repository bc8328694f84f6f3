"""The only package that imports LIBERO, robosuite and MuJoCo; it never imports torch."""
