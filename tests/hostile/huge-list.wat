;; Hands a list of half a million empty fields over: nothing by the bytes of its texts, much for the host to hold.
(module
  (import "sandpost:plugin/log@0.1.0" "log" (func $log (param i32 i32 i32 i32 i32)))
  ;; @answers
  ;; @heap
  (func (export "sandpost:plugin/handler@0.1.0#handle") (param $message i32) (result i32)
    (drop (memory.grow (i32.const 128)))
    (call $log (i32.const 2) (i32.const 0) (i32.const 0) (i32.const 262144) (i32.const 500000))
    (call $ack)))
