;; Imports `wasi:http`, which nobody granted.
(module
  (import "wasi:http/outgoing-handler@0.2.0" "handle" (func $it ))
  ;; @answers
  ;; @heap
  (func (export "sandpost:plugin/handler@0.1.0#handle") (param $message i32) (result i32)
    (call $it)
    (call $ack)))
