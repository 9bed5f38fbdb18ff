"""`watch.html`: one file with a talking 3D head, its sound and its curves."""

from toktalk_jax.page.write import read_page, write_page

__all__ = ["read_page", "write_page"]
