;; Waits a little, calls the host, waits a little: never much of anything, past its deadline.
(module
  (import "sandpost:plugin/config@0.1.0" "all" (func $all (param i32)))
  (import "wasi:clocks/monotonic-clock@0.2.0" "subscribe-duration" (func $timer (param i64) (result i32)))
  (import "wasi:io/poll@0.2.0" "[method]pollable.block" (func $block (param i32)))
  (import "wasi:io/poll@0.2.0" "[resource-drop]pollable" (func $drop-timer (param i32)))
  ;; @answers
  ;; @heap
  (func (export "sandpost:plugin/handler@0.1.0#handle") (param $message i32) (result i32)
    (local $timer i32)
    (loop $more
      (local.set $timer (call $timer (i64.const 10000000)))
      (call $block (local.get $timer))
      (call $drop-timer (local.get $timer))
      (call $all (i32.const 4096))
      (global.set $heap (i32.const 131072))
      (br $more))
    unreachable))
