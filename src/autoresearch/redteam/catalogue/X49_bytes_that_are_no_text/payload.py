import os
import sys

NO_TEXT = b"\xff\xfe\x00\xc0\x80\xed\xa0\x80\xed\xb0\x80\xf4\x90\x80\x80\xf8\x88\x80\x80\x80\x00\x1b[2J\xc2\x9b31m\xe2\x80\xae"
sys.stdout.flush()
os.write(1, NO_TEXT * 200 + b"\r\n---\nval_bpb: \xff0.1\nnum_steps: " + b"9" * 400 + b"\n")
os.write(2, b"ValueError: " + NO_TEXT * 20 + b"\n")
os._exit(1)
