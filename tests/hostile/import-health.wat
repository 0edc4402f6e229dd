;; Imports `health`, which nobody granted.
(module
  (import "sandpost:plugin/health@0.1.0" "connections" (func $it (param i32)))
  ;; @answers
  ;; @heap
  (func (export "sandpost:plugin/handler@0.1.0#handle") (param $message i32) (result i32)
    (call $it (i32.const 4096))
    (call $ack)))
