;; Hands a level over that there is none of.
(module
  (import "sandpost:plugin/log@0.1.0" "log" (func $log (param i32 i32 i32 i32 i32)))
  ;; @answers
  ;; @heap
  (func (export "sandpost:plugin/handler@0.1.0#handle") (param $message i32) (result i32)
    (call $log (i32.const 77) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))
    (call $ack)))
