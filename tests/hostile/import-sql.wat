;; Imports `sql`, which nobody granted.
(module
  (import "sandpost:plugin/sql@0.1.0" "[static]connection.open" (func $it (param i32 i32 i32)))
  ;; @answers
  ;; @heap
  (func (export "sandpost:plugin/handler@0.1.0#handle") (param $message i32) (result i32)
    (call $it (i32.const 0) (i32.const 0) (i32.const 4096))
    (call $ack)))
