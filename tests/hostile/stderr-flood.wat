;; Writes to its standard error without end.
(module
  (import "wasi:cli/stderr@0.2.0" "get-stderr" (func $stderr (result i32)))
  (import "wasi:io/streams@0.2.0" "[method]output-stream.blocking-write-and-flush"
    (func $write (param i32 i32 i32 i32)))
  ;; @answers
  ;; @heap
  (func (export "sandpost:plugin/handler@0.1.0#handle") (param $message i32) (result i32)
    (local $stream i32)
    (local.set $stream (call $stderr))
    (memory.fill (i32.const 65536) (i32.const 120) (i32.const 4096))
    (loop $more
      (call $write (local.get $stream) (i32.const 65536) (i32.const 4096) (i32.const 4096))
      (br $more))
    unreachable))
