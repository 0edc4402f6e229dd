;; Loops where the host asks it for memory to put a host call's answer into.
(module
  (import "sandpost:plugin/config@0.1.0" "all" (func $all (param i32)))
  ;; @answers
  (global $armed (mut i32) (i32.const 0))
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (if (global.get $armed) (then (loop $again (br $again))))
    (i32.const 65536))
  (func (export "sandpost:plugin/handler@0.1.0#handle") (param $message i32) (result i32)
    (global.set $armed (i32.const 1))
    (call $all (i32.const 4096))
    (call $ack)))
