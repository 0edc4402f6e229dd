;; Publishes until it is told that it is too much, and rejects then.
(module
  (import "sandpost:plugin/pubsub@0.1.0" "publish" (func $publish (param i32 i32)))
  ;; @answers
  ;; @heap
  ;; The arguments of `publish`: topic and body, all else left out.
  (data (i32.const 2048) "quiet")
  (func (export "sandpost:plugin/handler@0.1.0#handle") (param $message i32) (result i32)
    (i32.store (i32.const 8192) (i32.const 2048)) (i32.store (i32.const 8196) (i32.const 5))
    (i32.store (i32.const 8200) (i32.const 2048)) (i32.store (i32.const 8204) (i32.const 5))
    (loop $more
      (call $publish (i32.const 8192) (i32.const 4096))
      (global.set $heap (i32.const 131072))
      (br_if $more (i32.eqz (i32.load8_u (i32.const 4096)))))
    ;; The error's own text is the reason.
    (call $reject (i32.load (i32.const 4104)) (i32.load (i32.const 4108)))))
