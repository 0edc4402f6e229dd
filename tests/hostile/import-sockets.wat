;; Imports `wasi:sockets`, which nobody granted.
(module
  (import "wasi:sockets/instance-network@0.2.0" "instance-network" (func $it (result i32)))
  ;; @answers
  ;; @heap
  (func (export "sandpost:plugin/handler@0.1.0#handle") (param $message i32) (result i32)
    (drop (call $it))
    (call $ack)))
