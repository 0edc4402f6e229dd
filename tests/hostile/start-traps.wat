;; Traps before it is asked for anything.
(module
  ;; @answers
  ;; @heap
  (func $begin unreachable)
  (start $begin)
  (func (export "sandpost:plugin/handler@0.1.0#handle") (param $message i32) (result i32) (call $ack)))
