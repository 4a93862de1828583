"""Drawing maps over frames and streaming them to a file. Imports decisions and preprocessing; never recording."""
