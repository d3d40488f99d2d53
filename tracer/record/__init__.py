"""Recordings: samples in a parquet file, and back. The only room that imports pyarrow."""
