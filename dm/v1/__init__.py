"""Generated from proto/dm/v1; never edited by hand (make stubs)."""
