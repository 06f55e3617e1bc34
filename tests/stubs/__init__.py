"""C stand-ins for vendors' libraries (`build.build`), loaded by the vendors' real Python bindings."""
