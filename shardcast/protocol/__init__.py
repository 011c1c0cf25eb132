"""The formats on the wire: paths and headers, lists, manifests, feeds and reports."""
