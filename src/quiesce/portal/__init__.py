"""The portal: NiceGUI pages in the server's own process. They call the service's functions."""
