"""Image backbones behind one face: pixels in, one pooled feature row a picture out."""
