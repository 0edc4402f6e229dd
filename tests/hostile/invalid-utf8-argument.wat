;; Hands bytes over that are no text: half of a surrogate pair, as three bytes.
(module
  (import "sandpost:plugin/log@0.1.0" "log" (func $log (param i32 i32 i32 i32 i32)))
  ;; @answers
  ;; @heap
  (data (i32.const 2048) "\ed\a0\80")
  (func (export "sandpost:plugin/handler@0.1.0#handle") (param $message i32) (result i32)
    (call $log (i32.const 2) (i32.const 2048) (i32.const 3) (i32.const 0) (i32.const 0))
    (call $ack)))
