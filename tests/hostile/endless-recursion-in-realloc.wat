;; Uses up its stack where the host waits for memory: the host's own frames lie below.
(module
  (import "sandpost:plugin/config@0.1.0" "all" (func $all (param i32)))
  ;; @answers
  (global $armed (mut i32) (i32.const 0))
  (func $down (param i32) (result i32) (i32.add (call $down (local.get 0)) (i32.const 1)))
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (if (global.get $armed) (then (return (call $down (i32.const 0)))))
    (i32.const 65536))
  (func (export "sandpost:plugin/handler@0.1.0#handle") (param $message i32) (result i32)
    (global.set $armed (i32.const 1))
    (call $all (i32.const 4096))
    (call $ack)))
